// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Struct layouts and enum constants as an object's own BTF describes them.
#include "btf_layout.h"

#include <cerrno>
#include <cstdint>

#include "native_error.h"

namespace {

constexpr int64_t kLargestSafeInteger = (int64_t{1} << 53) - 1;

const char* KindName(const btf_type* type) {
  switch (btf_kind(type)) {
    case BTF_KIND_INT:
      return (btf_int_encoding(type) & BTF_INT_BOOL) != 0 ? "bool" : "int";
    case BTF_KIND_PTR:
      return "ptr";
    case BTF_KIND_ARRAY:
      return "array";
    case BTF_KIND_STRUCT:
      return "struct";
    case BTF_KIND_UNION:
      return "union";
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
      return "enum";
    case BTF_KIND_FLOAT:
      return "float";
    default:
      return "other";
  }
}

bool IsSigned(const btf_type* type) {
  switch (btf_kind(type)) {
    case BTF_KIND_INT:
      return (btf_int_encoding(type) & BTF_INT_SIGNED) != 0;
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
      return btf_kflag(type);
    default:
      return false;
  }
}

// libbpf checks little of what it reads. Types that refer to each other deeper than this are
// malformed, most likely a cycle; its own limit (MAX_RESOLVE_DEPTH in btf.c) is the same.
constexpr int kDeepest = 32;

[[noreturn]] void Malformed(Napi::Env env) {
  throw NativeError(env, {.error = EINVAL,
                          .operation = "BTF",
                          .object = "",
                          .reason = "the types are malformed: compile the object again"});
}

const btf_type* TypeById(Napi::Env env, const btf* types, uint32_t id) {
  const btf_type* type = btf__type_by_id(types, id);
  if (type == nullptr) Malformed(env);
  return type;
}

std::string NameAt(Napi::Env env, const btf* types, uint32_t offset) {
  const char* name = btf__name_by_offset(types, offset);
  if (name == nullptr) Malformed(env);
  return name;
}

Napi::Number SizeOf(Napi::Env env, const btf* types, uint32_t id) {
  const int64_t size = btf__resolve_size(types, id);
  if (size < 0) Malformed(env);
  return Napi::Number::New(env, static_cast<double>(size));
}

// What a member's type is once const, volatile and typedefs are looked through.
struct Resolved {
  const btf_type* type;
  uint32_t id;
  std::string name;  // the type's own name, else the innermost typedef's
};

Resolved Resolve(Napi::Env env, const btf* types, uint32_t id) {
  std::string typedef_name;
  const btf_type* type = TypeById(env, types, id);
  for (int depth = 0; btf_is_mod(type) || btf_is_typedef(type); ++depth) {
    if (depth == kDeepest) Malformed(env);
    if (btf_is_typedef(type)) typedef_name = NameAt(env, types, type->name_off);
    id = type->type;
    type = TypeById(env, types, id);
  }
  std::string name = NameAt(env, types, type->name_off);
  return {type, id, name.empty() ? typedef_name : name};
}

Napi::Object DescribeMember(Napi::Env env, const btf* types, uint32_t id) {
  Resolved resolved = Resolve(env, types, id);
  Napi::Object member = Napi::Object::New(env);
  member["kind"] = KindName(resolved.type);
  member["size"] = SizeOf(env, types, id);
  if (btf_is_array(resolved.type)) {
    double count = 1;
    for (int depth = 0; btf_is_array(resolved.type); ++depth) {
      if (depth == kDeepest) Malformed(env);
      const auto* array = btf_array(resolved.type);
      count *= array->nelems;
      resolved = Resolve(env, types, array->type);
    }
    member["count"] = count;
    member["elementSize"] = SizeOf(env, types, resolved.id);
    member["elementKind"] = KindName(resolved.type);
  }
  member["signed"] = IsSigned(resolved.type);
  if (!resolved.name.empty()) member["typeName"] = resolved.name;
  return member;
}

void AppendMembers(Napi::Array members, const btf* types, const btf_type* parent,
                   uint32_t parent_bit, int depth = 0) {
  const Napi::Env env = members.Env();
  if (depth == kDeepest) Malformed(env);
  for (uint32_t i = 0; i < btf_vlen(parent); ++i) {
    const btf_member& declared = btf_members(parent)[i];
    const uint32_t bit = parent_bit + btf_member_bit_offset(parent, i);
    const std::string name = NameAt(env, types, declared.name_off);
    if (name.empty()) {
      const Resolved nested = Resolve(env, types, declared.type);
      if (btf_is_composite(nested.type)) AppendMembers(members, types, nested.type, bit, depth + 1);
      continue;
    }
    Napi::Object member = DescribeMember(env, types, declared.type);
    member["name"] = name;
    const uint32_t offset = bit / 8;
    member["offset"] = Napi::Number::New(env, offset);
    if (btf_member_bitfield_size(parent, i) != 0) member["kind"] = "bitfield";
    members[members.Length()] = member;
  }
}

const btf_type* FindStruct(Napi::Env env, const btf* types, const std::string& name) {
  for (const uint32_t kind : {BTF_KIND_STRUCT, BTF_KIND_UNION, BTF_KIND_TYPEDEF}) {
    const int id = btf__find_by_name_kind(types, name.c_str(), kind);
    if (id <= 0) continue;
    const btf_type* type = Resolve(env, types, static_cast<uint32_t>(id)).type;
    if (btf_is_composite(type)) return type;
  }
  return nullptr;
}

void AppendEnumValue(Napi::Object values, const btf* types, uint32_t name_offset, bool is_signed,
                     int64_t value) {
  const std::string name = NameAt(values.Env(), types, name_offset);
  if (value > kLargestSafeInteger || value < (is_signed ? -kLargestSafeInteger : 0)) {
    throw NativeError(values.Env(), {.error = EOVERFLOW,
                                     .operation = "enumValues",
                                     .object = name,
                                     .reason = "the value does not fit a JavaScript number"});
  }
  values[name] = Napi::Number::New(values.Env(), static_cast<double>(value));
}

void AppendEnumValues(Napi::Object values, const btf* types, const btf_type* type) {
  const bool is_signed = btf_kflag(type);
  for (uint32_t i = 0; i < btf_vlen(type); ++i) {
    if (btf_is_enum64(type)) {
      const auto* constant = btf_enum64(type) + i;
      AppendEnumValue(values, types, constant->name_off, is_signed,
                      static_cast<int64_t>(btf_enum64_value(constant)));
    } else {
      const auto* constant = btf_enum(type) + i;
      AppendEnumValue(
          values, types, constant->name_off, is_signed,
          is_signed ? constant->val : static_cast<int64_t>(static_cast<uint32_t>(constant->val)));
    }
  }
}

}  // namespace

Napi::Value ReadStructLayout(Napi::Env env, const btf* types, const std::string& name) {
  const btf_type* type = FindStruct(env, types, name);
  if (type == nullptr) {
    throw NativeError(env, {.error = ENOENT,
                            .operation = "structLayout",
                            .object = name,
                            .reason = "no such struct or union in the object's BTF"});
  }
  Napi::Object layout = Napi::Object::New(env);
  Napi::Array members = Napi::Array::New(env);
  AppendMembers(members, types, type, 0);
  layout["size"] = Napi::Number::New(env, type->size);
  layout["members"] = members;
  return layout;
}

Napi::Value ReadEnumValues(Napi::Env env, const btf* types, const std::string& name) {
  Napi::Object values = Napi::Object::New(env);
  bool found = false;
  for (uint32_t id = 1; id < btf__type_cnt(types); ++id) {
    const btf_type* type = btf__type_by_id(types, id);
    if (!btf_is_any_enum(type) || name != NameAt(env, types, type->name_off)) continue;
    found = true;
    AppendEnumValues(values, types, type);
  }
  if (!found) {
    throw NativeError(env, {.error = ENOENT,
                            .operation = "enumValues",
                            .object = name,
                            .reason = "no such enum in the object's BTF"});
  }
  return values;
}
