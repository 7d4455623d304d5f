"""Binary networks in other people's trainers: a file each, which imports the trainer's package when it is imported.

:mod:`quantize.integrations.lightning` and :mod:`quantize.integrations.transformers` have a callback; what both do
stands in :mod:`quantize.integrations.duties`. A loop of one's own, or timm's, needs :mod:`quantize.optim` alone.
"""
