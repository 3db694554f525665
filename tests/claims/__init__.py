"""`make claims`: run every test that holds up a claim, at full size, and write docs/claims.md.

    python -m tests.claims [PATH…] [--jobs 2] [--page]

A test names its claim with ``@pytest.mark.claim("area.name")``, and tells with ``record_property`` what
it "measured", on which "setup", and each "curve" of a figure. GROVE_FULL=1 asks the experiments for
their full size. Every test file runs as a process of its own, two at a time, the longest first; what
came out is kept in docs/claims.json as it comes, so that PATHs rerun a part, and the page and the
figures are made of all that is kept. An interrupted run goes on with the seed it was at, as long as no
source file changes (.claims/). Red claims stay in the table, and so do known gaps.

running.py runs the files, ledger.py writes down what their tests tell, store.py keeps it, page.py and
figures.py show it.
"""
