# block_manager.cc: a free block that is shared is still on the free list.
s/if (blocks_\[block\]\.references++ == 0) Unlink(block);/++blocks_[block].references;/
