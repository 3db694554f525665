"""`grove compare`: which one, and at what price; and `grove reproduce`: is it still so.

    pairing     the same worlds for every side, run by processes (or by `cluster`, or really: `live`)
    stopping    when enough was seen: a budget of time, an interval that is narrow
    statistics  intervals, tests and effects of paired numbers; pure
    judging     rows with a verdict, from outcomes
    headline    one sentence, never without the regime it was found in
    table       what the terminal shows
    manifest    everything it takes to run it again, and what came out
    runs        one CSV line per run, digests, quantiles
    traces      single runs watched: the first event that differs, the worst message, a whole trace
    report      report.html and report.md, by figures

Everything but `live` follows from the study (scenario, sides, seeds) alone. What it must give is
written in the ecosystem survey, 4.3.
"""
