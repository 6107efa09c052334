"""The fourth step: whether to believe it.

`agreement` measures how the two pictures agree where the answer lays them, part by part; `verdict` makes one
probability of all the evidence, and reasons in words.
"""
