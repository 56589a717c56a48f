"""Replacing the model of an index without re-indexing its gallery: a study measures, a gate decides.

    judged queries -> paired sample -> routes -> measures -> gate -> evidence and mapping

Judged queries are about images of the index. A paired sample holds both models' vectors of them. A route takes the new
model's queries to the old vectors; each is fitted on one half of the queries and measured on the other, and the gate
decides whether the best of them may be published.
"""
