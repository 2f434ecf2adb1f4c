"""One HTML page that holds everything: the leaderboard, curves, costs, pictures, and where each number is from."""
