# scheduler.cc: a block can be found before its last token is computed.
/^void Scheduler::Publish/,/^}/s/known \/ blocks_\.block_size()/std::min((known + 1) \/ blocks_.block_size(), sequence.tokens.size() \/ blocks_.block_size())/
