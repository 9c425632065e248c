"""`vgg-deploy bench`: what it times, what it measures, and how it reports."""
