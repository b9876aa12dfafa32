import sys
from minisora.fit import fit
fit(sys.argv[2], sys.argv[3:])
