"""vgg-deploy infer."""
