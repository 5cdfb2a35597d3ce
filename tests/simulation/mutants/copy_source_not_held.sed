# scheduler.cc: the block to copy from may be allocated for something else before the copy.
/^bool Scheduler::TakeBlocks/,/^}/{/blocks_\.Share(\*prefix\.source)/d;/blocks_\.Release({&\*prefix\.source, 1});/d;s/(prefix\.source\.has_value() && is_free(\*prefix\.source) ? 1 : 0)/0/}
