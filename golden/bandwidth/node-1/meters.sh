#!/bin/sh
# Node node-1: the meters of the bridge br0, which its flows need. Run as root, after
# ports.sh. Running it again changes nothing.
set -eu

# meter METER
meter() {
	ovs-ofctl -O OpenFlow14 add-meter br0 "$1" 2>/dev/null ||
		ovs-ofctl -O OpenFlow14 mod-meter br0 "$1"
}

meter 'meter=14084212,kbps,burst,stats,band=type=drop,rate=3000,burst_size=600' # pod bank/batch-0
meter 'meter=3062791,kbps,burst,stats,band=type=drop,rate=5000,burst_size=600' # pod shop/backup-0
