#pragma once

#include <string_view>

namespace trireme {

// One-line log messages to standard error: "2026-01-31 12:00:00.000 I name: message".
// Thread safe. The name (program, rank) and the level are set once by main.

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// Parses "debug", "info", "warning", "error" or "off"; anything else gives kInfo.
LogLevel ParseLogLevel(std::string_view text);

void InitLog(std::string_view name, LogLevel level);

void LogDebug(std::string_view message);
void LogInfo(std::string_view message);
void LogWarning(std::string_view message);
void LogError(std::string_view message);

}  // namespace trireme
