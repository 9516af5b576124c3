"""Plain functions on arrays: OBS, ranking, knapsack."""
