# block_manager.cc: only the first who shares a block is counted.
s/if (blocks_\[block\]\.references++ == 0) Unlink(block);/if (blocks_[block].references == 0) { ++blocks_[block].references; Unlink(block); }/
