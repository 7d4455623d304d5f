"""The trainer and the tools of xnorkit, as a wheel brings them: :mod:`xnorkit.training`, :mod:`xnorkit.tools`.

The toolkit is :mod:`quantize`, the networks are :mod:`models`. In a clone ``training/`` and ``tools/`` stand at its
top, and call each other so; names so common are nobody's in site-packages, so a wheel keeps them in here.
"""
