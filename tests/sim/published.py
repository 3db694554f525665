"""What the papers published, in their own units: the curves ours are drawn beside.

HyParView: Leitão, Pereira, Rodrigues, DSN 2007 (TR DI-FCUL 07-13). Plumtree: the same, SRDS 2007
(TR DI-FCUL 07-14). Read from the vector paths of their figures, so exact to the plotted precision.
Single points of figures 3 (HyParView) and 6 (Plumtree) are means of about three runs, each of which
is all or nothing: 13.0 % is a third of 47.4 %, the giant component after a crash of 70 %.
"""

from __future__ import annotations

FAILED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares of the village that crash at once."""

FANOUT = {"Cyclon": {4: 98.4, 5: 99.5, 6: 99.8}, "Scamp": {4: 96.2, 5: 98.3, 6: 99.2}}
"""HyParView, figure 1: mean reliability in percent without failures, by fanout."""

RELIABILITY = {
    "HyParView": (100, 100, 100, 100, 100, 99.9, 99.9, 99.9, 99.7, 90.8),
    "CyclonAcked": (98.3, 98.3, 98.3, 98.3, 98.0, 98.0, 96.8, 46.4, 0.2, 0.3),
    "Cyclon": (97.3, 96.5, 92.6, 85.9, 73.4, 50.2, 11.8, 0.2, 0.2, 0.3),
    "Scamp": (94.7, 92.2, 88.0, 80.1, 65.5, 39.8, 4.2, 0.2, 0.2, 0.3),
}
"""HyParView, figure 2: mean reliability in percent of 1,000 messages, by `FAILED`."""

RECOVERY = {
    0.4: (98.7, 100),
    0.6: (55.1, 99.4, 100),
    0.7: (13.0, 96.5, 99.9),
    0.8: (1.6, 81.5, 98.1, 99.7, 99.9, 100),
    0.95: (0.3, 0.5, 0.4, 23.0, 77.8, 85.6, 91.6, 93.7, 94.7, 95.1, 95.5),
}
"""HyParView, figure 3: reliability in percent of successive messages after a crash."""

HEALING = {
    "HyParView": (1, 1, 1, 1, 1, 1, 2, 2, 4),
    "CyclonAcked": (8, 26, 24, 27, 32, 24, 35, 51, 71),
    "Cyclon": (42, 48, 51, 69, 72, 80, 102, 107, 159),
}
"""HyParView, figure 4: cycles until the reliability from before the crash is back, by `FAILED`."""

TREE_FORMS = {"Eager": (2.03, 2.90, 2.94), "Plumtree": (2.03, 0.89, 0.04, 0.017, 0.009)}
"""Plumtree, figure 2b: redundancy (RMR) of successive broadcasts, on an overlay that still fills."""

TREE_HEALS = {0.4: (1.89, 0.06, 0.05), 0.6: (2.27, 0.12, 0.05), 0.8: (2.0, 0.37, 0.05)}
"""Plumtree, figure 5: redundancy in successive cycles after a crash. From the second on, upper bounds."""

LAST_HOP = {
    "flood": (8.84, 8.1, 8.05, 7.15),
    "one sender": (9.99, 9.7, 9.0, 8.06),
    "many senders": (59.4, 36.2, 24.9, 35.9),
    "one sender, optimised": (8.34, 8.0, 8.0, 7.0),
    "many senders, optimised": (17.2, 16.2, 15.5, 14.2),
}
"""Plumtree, figures 2c and 4: last delivery hop at rest and after crashes of `LAST_HOP_FAILED`."""

LAST_HOP_FAILED = (0.0, 0.4, 0.6, 0.8)
