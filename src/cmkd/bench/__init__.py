"""Grids of runs: teachers x students x methods x seeds from one file, each cell an ordinary run."""
