"""`python -m fastloss doctor | bench | demo`"""

import sys

from fastloss.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
