# scheduler.cc: tenants find the prefixes of each other.
s/index == 0 ? sequence\.cache_root : /index == 0 ? BlockHash{} : /
