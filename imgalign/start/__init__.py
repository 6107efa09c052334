"""The second step: where to start, out of all that a model leaves open.

`starts` asks from the cheapest to the dearest: shifts and whole ranges of rotation and scale (`search`), patterns of
bright points (`spots`), keypoints of all sizes (`keypoints`, `matches`). `consensus` is what two sets of points agree
on; `periods` says whether a picture looks the same elsewhere.
"""
