"""vgg-deploy verify."""
