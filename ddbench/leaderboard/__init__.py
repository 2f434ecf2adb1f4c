"""Results to tables. The names below serve `--help` too, so nothing is imported here."""

FORMATS = ("text", "markdown", "latex", "csv", "json")  # of ddbench.leaderboard.render
EXTRA_COLUMNS = ("interval", "components", "gain", "share", "seconds", "bytes", "rank")  # of .extra_columns
