"""A model as attacks and influence see it, for the tests that call their parts."""

from contextlib import contextmanager


@contextmanager
def frozen(model):
    """The model in eval mode with no parameter gradients; both are restored afterwards.

    Attacks on pixels and influence need batch norm's running statistics (in train mode the
    per-example gradients mix across the batch) and no weight gradients (a third of the work).
    """
    modes = [(module, module.training) for module in model.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in needed:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in needed:
            parameter.requires_grad_(flag)
