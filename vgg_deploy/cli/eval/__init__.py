"""vgg-deploy eval."""
