"""How to install an extra of this package. No package index has the package, so the command is for a clone."""


def install_command(*extras: str) -> str:
    """The command that installs extras, for messages, such as "pip install '.[cpu]' in a clone of vgg_deploy".

    Without a clone, pip accepts the address of the repository: `pip install 'vgg-deploy[cpu] @ git+ADDRESS'`.
    """
    return f"pip install '.[{','.join(extras)}]' in a clone of vgg_deploy"
