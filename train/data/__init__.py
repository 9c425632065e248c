"""Training data: folders of images, crops, batches and what is measured on them."""
