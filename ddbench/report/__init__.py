"""One self-contained HTML page: leaderboard, curves, costs, images, and the origin of each number."""
