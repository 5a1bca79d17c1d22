"""`python -m astromesh_node` is astromeshd."""

import sys

from astromesh_node.daemon import main

sys.exit(main())
