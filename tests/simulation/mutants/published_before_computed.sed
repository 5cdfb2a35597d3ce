# scheduler.cc: blocks of a prompt can be found before their step is planned.
/^void Scheduler::Publish/,/^}/s/std::min<size_t>(sequence\.num_computed, sequence\.tokens\.size())/std::min(sequence.tokens.size(), sequence.block_table.size() * blocks_.block_size())/
