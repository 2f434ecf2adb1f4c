"""Results to tables. The names below serve `--help` too, so nothing is imported here."""

FORMATS = ("text", "markdown", "latex", "csv", "json")  # of ddbench.leaderboard.render
EXTRA_COLUMNS = {  # of .extra_columns: name -> its line in `ddbench leaderboard --help`
    "interval": "half the width of the 95 % interval",
    "components": "deviation between distillations / between students",
    "gain": "difference from `random`, in points",
    "share": "per cent of the accuracy of `full`",
    "ratio": "images of `random` for the same accuracy, per image, with a 95 % interval",
    "slope": "points gained per added image of a class, since the next smaller IPC",
    "cross": "mean and worst over the students, drop from the distilling network",
    "audit": "AUC of the attacks of `ddbench audit`: use of an image, membership in the training split",
    "seconds": "time of a distillation",
    "bytes": "size of the distilled set",
    "rank": "the row's mean rank, in one further column",
}
RANK, CROSS = "rank", "cross"  # of them those that stand after all accuracies, and after those of all students
