"""MetaPoison's settings for a tiny problem."""

from poisonbench.attacks import metapoison as mp

#: Fine-tuning: one trained network, plain batches of 8 of 40 images.
SMALL = mp.Config(
    epsilon=0.25,
    steps=6,
    surrogates=1,
    start="trained",
    bn="eval",
    craft_rate=0.1,
    craft_optimizer="sign-adam",
    warm_up=0,
    rate_drops=(),
    inner_batch_size=8,
)
