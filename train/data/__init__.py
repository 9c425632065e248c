"""Training data: folders of images, crops, batches, and their colours."""
