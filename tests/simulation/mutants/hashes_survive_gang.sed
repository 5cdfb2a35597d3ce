# scheduler.cc: hashes of blocks of another size are used with the next gang.
s/sequence\.block_hashes\.clear();.*//
