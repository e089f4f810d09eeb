"""APBench's leaderboard: availability attacks by defenses, beside ours. No torch here."""

from poisonbench.tables.availability_tables import Column, table_of

TABLE = table_of(
    "apbench",
    "test accuracy under single untargeted attacks, by defense",
    (
        Column("standard", "none", "none"),
        Column("cutout", "Cutout"),
        Column("cutmix", "CutMix", "cutmix"),
        Column("mixup", "mixup", "mixup"),
        Column("gaussian", "blur 0.1", "gaussian-blur", {"sigma": 0.1}),
        Column("bdr", "bit depth 2", "bit-depth"),
        Column("gray", "grayscale", "grayscale"),
        Column("jpeg", "JPEG 10", "jpeg", {"quality": 10}),
        Column("umax", "UEraser-max", "ueraser", {"form": "max", "probability": 1.0}),
        Column("avatar", "AVATAR"),
        Column("at", "AT", "at"),
    ),
    "Theirs: 200 epochs, batches of 256; ours: the recipe that all methods share: docs/tables.md.",
)
