"""A page of HTML as its tests look at it: elements, ids, links and text, without a browser."""

from html.parser import HTMLParser

#: Elements that have no end.
VOID = {"meta", "link", "img", "input", "br", "wbr", "hr", "path", "circle", "rect"}


class Document(HTMLParser):
    """The elements of a page.

    Attributes:
        elements: (name, attributes) in order.
        ids: each as often as it stands there.
        links: where ``a`` elements lead.
        texts: by element name, the text directly inside.
    """

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.texts = {}
        self._open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def named(self, name):
        """The attributes of all elements of a name."""
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def links(self):
        return [attributes["href"] for attributes in self.named("a")]
