"""The page in fewer bytes: the same elements, attributes and texts to a parser."""

import pytest

from helpers.html import Document
from poisonbench.page.compact import compact


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ('<td class="number">1</td>\n<td>2</td>', "<td class=number>1<td>2"),
        ("<dl><div><dt>a</dt><dd>b</dd></div></dl>", "<dl><div><dt>a<dd>b</div></dl>"),
        ('<rect width="3%"/>', "<rect width=3% />"),
        ('<path d="M1,2" class="x"/>', '<path d="M1,2" class=x />'),
        ('<a href="#run-1" title="a b">x</a>', '<a href=#run-1 title="a b">x</a>'),
        ('<p title="&#34;1&#34;">&#34;1&#34; &amp; &lt;b&gt;</p>',
         '<p title="&#34;1&#34;">"1" & &lt;b&gt;</p>'),
        ("<pre>a&amp;b&amp;amp; c</pre>", "<pre>a&amp;b&amp;amp; c</pre>"),
        ('<script>"<td class="x">"</td> </script>', '<script>"<td class="x">"</td> </script>'),
    ],
)  # fmt: skip
def test_what_html_implies_is_left_out(text, short):
    assert compact(text) == short
    before, after = Document(text), Document(short)
    assert before.elements == after.elements
    assert "".join("".join(t) for t in before.texts.values()).split() == (
        "".join("".join(t) for t in after.texts.values()).split()
    )


def test_axes_with_the_same_numbers_stand_once():
    axis = (
        "<g class=across><path class=grid d=M1 /><g class=x><text x=1>5</text></g>"
        "<text class=name x=2>epoch</text><text class=name>loss</text></g>"
    )
    other = axis.replace("M1", "M2")
    page = f"<svg><defs></defs></svg><svg>{axis}</svg><svg>{other}</svg><svg>{axis}</svg>"
    short = compact(page)
    assert short.count("epoch") == 2
    assert short.count("<use href=#a0 />") == 2
    assert short.count("<use href=#a1 />") == 1
    assert {"a0", "a1"} == set(Document(short).ids)
    assert short.count("<g") == short.count("</g>") == 4
