"""Programs that attack what judges them; every one must fail and harm nothing.

`corpus.attacks()` lists them. None is run here but by the sandbox under test,
and a part of `forge` by a naive judge, to show that they bite.
"""
