"""Parts of `bench/index.py`.

`base` holds what all share: settings, machine, timing in rounds, results. `probe` reads bytes as fast as the machine
does. `photos` encodes real photos, `world` multiplies their vectors and publishes an index, `truth` says what is right.
`engine` is the only module that calls the search and the writers of cir. Each other module measures one part.
"""
