"""One self-contained HTML page: leaderboard, curves, costs, images, and the origin of each number."""

PLOTS = (".svg", ".png", ".pdf")  # of .measure_plots: files that a plot is written to
