"""A poison's files in the words of MLCommons' Croissant 1.0. No torch here."""

from collections.abc import Mapping
from typing import Any

from poisonbench.specs import PoisonCard

#: Croissant's own, of version 1.0 of its specification.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def description(
    card: PoisonCard, images: str, table: str, digests: Mapping[str, str]
) -> dict[str, Any]:
    """Croissant's description of a poison's files; table lines are joined with their pictures.

    Args:
        card: the poison's.
        images: the file of the pictures.
        table: the file with a line for each of them.
        digests: sha256 of every file, by its name.
    """
    kinds = {images: "application/zip", table: "text/csv"}
    attacks, made_for = "+".join(card.attacks), card.dataset.name.partition(":")[0]

    def field(name: str, kind: str, source: Any, **more: Any) -> dict[str, Any]:
        about = {"@type": "cr:Field", "@id": f"poisons/{name}", "name": f"poisons/{name}"}
        return {**about, "dataType": kind, "source": source, **more}

    def in_table(name: str) -> dict[str, Any]:
        return {"fileObject": {"@id": table}, "extract": {"column": name}}

    def of_file(name: str) -> dict[str, Any]:
        return {"fileSet": {"@id": "images"}, "extract": {"fileProperty": name}}

    texts = {"row": "Row of the training split.", "label": "As it is published."}
    texts |= {"class": "The label's name.", "source": "The attack that made it."}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"poison-{card.digest[:16]}",
        "description": f"{card.num_poisons} training images of {made_for}, poisoned by {attacks}; "
        f"budget: {card.budget_text}. The card (card.json) says how they were made.",
        "version": "1.0.0",
        "distribution": [
            *(
                {
                    "@type": "cr:FileObject",
                    "@id": name,
                    "name": name,
                    "contentUrl": name,
                    "encodingFormat": kinds.get(name, "application/json"),
                    "sha256": digest,
                }
                for name, digest in digests.items()
            ),
            {
                "@type": "cr:FileSet",
                "@id": "images",
                "name": "images",
                "containedIn": {"@id": images},
                "encodingFormat": "image/png",
                "includes": "*.png",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "poisons",
                "name": "poisons",
                "key": {"@id": "poisons/file_name"},
                "field": [
                    # From the pictures to the table: their contents stay the joined line's.
                    field(
                        "file_name",
                        "sc:Text",
                        of_file("filename"),
                        references=in_table("file_name"),
                    ),
                    *(
                        field(
                            name,
                            "sc:Integer" if name in ("row", "label") else "sc:Text",
                            in_table(name),
                            description=text,
                        )
                        for name, text in texts.items()
                    ),
                    field("image", "sc:ImageObject", of_file("content")),
                ],
            }
        ],
    }
