# scheduler.cc: behind a shared prefix the wrong blocks are swapped in.
s/kv_blocks + sequence\.swap_table\[i\]/kv_blocks + sequence.swap_table[i - first_block]/
