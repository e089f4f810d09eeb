"""Image Shortcut Squeezing's table: availability attacks by two filters, beside ours. No torch."""

from poisonbench.tables.availability_tables import Column, table_of

TABLE = table_of(
    "iss",
    "test accuracy under single untargeted attacks, by filter of the training images",
    (
        Column("none", "none", "none"),
        Column("gray", "grayscale", "grayscale"),
        Column("jpeg10", "JPEG 10", "jpeg", {"quality": 10}),
    ),
    "Theirs: 60 epochs, cosine rate; ours: the recipe that all methods share: docs/tables.md.",
)
