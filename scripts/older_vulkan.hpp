// Given by `-include` to a build of llama.cpp for Vulkan whose headers of Vulkan are older than 1.3.272 (Debian 12 has
// 1.3.239): they lack three types of VK_EXT_layer_settings, which llama.cpp names in one function. It uses them for the
// validation layer alone, and a driver ignores a structure that it does not know. With newer headers this file is empty.
#if defined(__cplusplus) && __has_include(<vulkan/vulkan_core.h>)
#include <vulkan/vulkan_core.h>
#ifndef VK_EXT_layer_settings
#include <cstdint>
#include <vector>

namespace vk {

enum class LayerSettingTypeEXT { eBool32 = 0 };

struct LayerSettingEXT {
    const char * layer;
    const char * name;
    LayerSettingTypeEXT type;
    uint32_t count;
    const void * values;
};

struct LayerSettingsCreateInfoEXT {
    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : count(static_cast<uint32_t>(settings.size())), first(settings.data()) {}

    VkStructureType type = static_cast<VkStructureType>(1000496000);
    const void * next = nullptr;
    uint32_t count;
    const LayerSettingEXT * first;
};

} // namespace vk
#endif
#endif
