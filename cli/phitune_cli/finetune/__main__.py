"""`python -m phitune_cli.finetune`: what the plugin's executable does."""

import sys

from phitune_cli.finetune.main import main

sys.exit(main())
