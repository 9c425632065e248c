"""From images to posteriors: engines, prediction, results and heatmaps."""
