"""`python -m fastloss doctor | bench | demo | recommend`"""

import sys

from fastloss.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
