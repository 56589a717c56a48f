"""The kinds of torture that `bench/torture.py` runs, one file each.

    steps       what a process does that is tortured or asked: a command of `cir`, or a call of the Python API
    processes   runs a step in a process of its own: killed, limited, timed
    states      what an index must answer, computed with numpy from the pictures alone
    commands    the commands that write, with the answers before and after
    worlds      an index with everything in it
    cases       findings, and how they are counted
    system_calls    sees each write, sync and rename of a process before it happens, and refuses some
    kills, refusals, damage, crafted, full_disks, readers, hostile    the kinds

Nothing here knows a file format of the index: files are found by walking its folder, and answers are asked for through
the public API in a process that may crash.
"""
