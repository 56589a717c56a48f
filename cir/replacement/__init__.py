"""Putting a new model behind an index without encoding its gallery again: what was measured decides.

    anchors -> study -> routes -> measures -> gate -> mapping

Anchors are questions with known answers about images of the index. A study holds both models' vectors of them. A
route is one way from the new model's queries to the old vectors; each is fitted on one half of the anchors and measured
on the other, and the gate says whether the best of them is good enough to be published.
"""
