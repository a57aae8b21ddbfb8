package org.acdbit.classifier;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * JSON as Map, List, String, Double, Boolean and null. Java has no reader of its own, and Android's is not there in a
 * desktop's tests.
 */
final class Json {
  private static final int DEEPEST = 32;
  private final String text;
  private int at;

  private Json(String text) {
    this.text = text;
  }

  /** @throws IllegalArgumentException not JSON, or nested deeper than 32 levels. */
  static Object parse(String text) {
    Json json = new Json(text);
    Object value = json.value(0);
    if (json.next() != 0) throw json.error();
    return value;
  }

  private Object value(int depth) {
    if (depth > DEEPEST) throw error();
    switch (next()) {
      case '{':
        return object(depth);
      case '[':
        return list(depth);
      case '"':
        return string();
      case 't':
        return literal("true", Boolean.TRUE);
      case 'f':
        return literal("false", Boolean.FALSE);
      case 'n':
        return literal("null", null);
      default:
        return number();
    }
  }

  private Map<String, Object> object(int depth) {
    Map<String, Object> object = new LinkedHashMap<>();
    at++;
    for (boolean more = next() != '}'; more; more = comma('}')) {
      if (next() != '"') throw error();
      String key = string();
      if (next() != ':') throw error();
      at++;
      object.put(key, value(depth + 1));
    }
    at++;
    return object;
  }

  private List<Object> list(int depth) {
    List<Object> list = new ArrayList<>();
    at++;
    for (boolean more = next() != ']'; more; more = comma(']')) list.add(value(depth + 1));
    at++;
    return list;
  }

  /** Whether another element follows, in front of which this stops; otherwise it stops at the end's bracket. */
  private boolean comma(char end) {
    char found = next();
    if (found == end) return false;
    if (found != ',') throw error();
    at++;
    return true;
  }

  private String string() {
    StringBuilder found = new StringBuilder();
    for (at++; at < text.length(); at++) {
      char c = text.charAt(at);
      if (c == '"') {
        at++;
        return found.toString();
      }
      if (c < ' ') throw error();
      found.append(c == '\\' ? escaped() : c);
    }
    throw error();
  }

  private char escaped() {
    if (++at >= text.length()) throw error();
    char c = text.charAt(at);
    int plain = "\"\\/bfnrt".indexOf(c);
    if (plain >= 0) return "\"\\/\b\f\n\r\t".charAt(plain);
    if (c != 'u' || at + 4 >= text.length()) throw error();
    String digits = text.substring(at + 1, at + 5);
    if (!digits.matches("[0-9a-fA-F]{4}")) throw error();
    at += 4;
    return (char) Integer.parseInt(digits, 16);
  }

  private Object literal(String name, Object value) {
    if (!text.startsWith(name, at)) throw error();
    at += name.length();
    return value;
  }

  private Double number() {
    int begin = at;
    while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) at++;
    String digits = text.substring(begin, at);
    if (!digits.matches("-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?")) throw error();
    return Double.valueOf(digits);
  }

  /** The next character that is not white, 0 at the end; stops there. */
  private char next() {
    while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
    return at < text.length() ? text.charAt(at) : 0;
  }

  private IllegalArgumentException error() {
    return new IllegalArgumentException("not JSON at character " + at);
  }
}
