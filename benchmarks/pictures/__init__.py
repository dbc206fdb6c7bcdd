"""Pictures as SVG, drawn from the figures of a run or by hand; by `benchmarks.report`."""
