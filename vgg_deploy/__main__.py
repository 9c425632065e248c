"""`python -m vgg_deploy` is `vgg-deploy`."""

from vgg_deploy.cli import main

main()
