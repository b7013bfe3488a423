<?xml version="1.0"?>
<!--
  The hardened domain, for what pulumi-libvirt has no argument for. layer1/domain_sheet.py fills the
  parameters in and canonicalises the sheet: any byte of it replaces the domain, so a comment or an
  indentation must not count. The provider runs it with xsltproc over the domain's whole XML.
  Each rule says what it takes away or adds, and why. Checks of the result: tests/units/test_domain_sheet.py.
-->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:param name="uuid"/>
  <xsl:param name="ip"/>
  <xsl:param name="virtual-ip"/>
  <xsl:param name="pool-path"/>
  <xsl:param name="accel"/>
  <xsl:param name="arch"/>
  <xsl:param name="svirt"/>
  <xsl:param name="hard-limit-mib"/>
  <xsl:param name="secure-boot"/>
  <xsl:output omit-xml-declaration="yes" indent="no"/>

  <xsl:template match="@*|node()"><xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy></xsl:template>

  <!-- A fixed UUID: vTPM state and disk keys hang on it, and the provider would make a new one each time.
       The hard limit bounds the whole QEMU process. nosharepages: no page shared with a neighbour (KSM). -->
  <xsl:template match="/domain/name">
    <xsl:copy-of select="."/>
    <uuid><xsl:value-of select="$uuid"/></uuid>
    <xsl:if test="$hard-limit-mib != '0'">
      <memtune><hard_limit unit="MiB"><xsl:value-of select="$hard-limit-mib"/></hard_limit></memtune>
    </xsl:if>
    <memoryBacking><nosharepages/></memoryBacking>
    <clock offset="utc"><xsl:if test="$arch = 'x86_64'"><timer name="hpet" present="no"/></xsl:if></clock>
    <on_poweroff>destroy</on_poweroff>
    <on_reboot>restart</on_reboot>
    <on_crash>destroy</on_crash>
    <!-- The machine virt on aarch64 has no such states, and libvirt refuses even to have them switched off. -->
    <xsl:if test="$arch = 'x86_64'">
      <pm><suspend-to-mem enabled="no"/><suspend-to-disk enabled="no"/></pm>
    </xsl:if>
  </xsl:template>
  <xsl:template match="/domain/clock | /domain/on_poweroff | /domain/on_reboot | /domain/on_crash | /domain/pm"/>

  <xsl:template match="/domain/features">
    <xsl:copy>
      <xsl:apply-templates select="@*|node()"/>
      <xsl:if test="$arch = 'x86_64'"><vmport state="off"/></xsl:if>
      <xsl:if test="$accel = 'kvm'"><pmu state="off"/></xsl:if>
      <!-- Only code in system management mode may write the firmware's variables, Secure Boot's keys too. -->
      <xsl:if test="$secure-boot = 'yes'"><smm state="on"/></xsl:if>
      <!-- Emulation alone: bounds QEMU's cache of translated code, which else takes a gibibyte. -->
      <xsl:if test="$accel = 'tcg'"><tcg><tb-cache unit="MiB">128</tb-cache></tcg></xsl:if>
    </xsl:copy>
  </xsl:template>

  <!-- A node runs containers, not machines: no hypervisor inside it. -->
  <xsl:template match="/domain/cpu">
    <xsl:copy>
      <xsl:apply-templates select="@*|node()"/>
      <xsl:if test="$accel = 'kvm' and $arch = 'x86_64'">
        <feature policy="disable" name="vmx"/>
        <feature policy="disable" name="svm"/>
      </xsl:if>
    </xsl:copy>
  </xsl:template>

  <!-- The provider asks for firmware by name on aarch64 besides the path; libvirt 9 refuses the two together. -->
  <xsl:template match="/domain/os[loader]/@firmware"/>
  <xsl:template match="/domain/os/loader/@secure">
    <xsl:attribute name="secure">
      <xsl:choose>
        <xsl:when test="$secure-boot = 'yes'">yes</xsl:when>
        <xsl:otherwise><xsl:value-of select="."/></xsl:otherwise>
      </xsl:choose>
    </xsl:attribute>
  </xsl:template>

  <!-- Disks. type='file' with the path: libvirt 9 writes no AppArmor rule for type='volume'. -->
  <xsl:template match="disk[@type='volume']/@type"><xsl:attribute name="type">file</xsl:attribute></xsl:template>
  <xsl:template match="disk/source[@pool]"><source file="{$pool-path}/{@volume}"/></xsl:template>
  <xsl:template match="disk[@device='disk']/driver">
    <xsl:copy>
      <xsl:apply-templates select="@*"/>
      <xsl:attribute name="cache">none</xsl:attribute>
      <xsl:attribute name="io">native</xsl:attribute>
      <xsl:attribute name="discard">unmap</xsl:attribute>
      <xsl:attribute name="detect_zeroes">unmap</xsl:attribute>
    </xsl:copy>
  </xsl:template>
  <!-- The seed: Q35 has no IDE; SATA, read-only. The serial stays, by it the provider skips this disk. -->
  <xsl:template match="disk[@device='cdrom']">
    <xsl:copy><xsl:apply-templates select="@*|node()"/><xsl:if test="not(readonly)"><readonly/></xsl:if></xsl:copy>
  </xsl:template>
  <xsl:template match="disk[@device='cdrom']/target">
    <xsl:choose>
      <xsl:when test="$arch = 'x86_64'"><target dev="sda" bus="sata"/></xsl:when>
      <xsl:otherwise><target dev="sda" bus="scsi"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <!-- The network card: bound to its MAC and address, no boot ROM. -->
  <xsl:template match="interface">
    <xsl:copy>
      <xsl:apply-templates select="@*|node()"/>
      <rom enabled="no"/>
      <filterref filter="clean-traffic">
        <parameter name="IP" value="{$ip}"/>
        <!-- Shared with the other control planes: whoever holds it answers for it. -->
        <xsl:if test="$virtual-ip != ''"><parameter name="IP" value="{$virtual-ip}"/></xsl:if>
      </filterref>
    </xsl:copy>
  </xsl:template>

  <!-- Ways in that nobody needs: the screen, the guest agent, the consoles, sound, USB, pointers. -->
  <xsl:template match="devices/graphics | devices/video | devices/channel | devices/console | devices/serial
    | devices/parallel | devices/sound | devices/audio | devices/input | devices/watchdog | devices/memballoon
    | devices/controller[@type='usb'] | devices/rng | devices/tpm | devices/redirdev | devices/hostdev | devices/panic"/>
  <xsl:template match="/domain/*[local-name()='commandline']"/>

  <xsl:template match="/domain/devices">
    <xsl:copy>
      <xsl:apply-templates select="@*|node()"/>
      <xsl:if test="$arch != 'x86_64'"><controller type="scsi" model="virtio-scsi"/></xsl:if>
      <controller type="usb" model="none"/>
      <memballoon model="none"/>
      <audio id="1" type="none"/>
      <rng model="virtio"><rate bytes="1024" period="1000"/><backend model="random">/dev/urandom</backend></rng>
      <!-- Seals the disk's key. Its state hangs on the domain's UUID and outlives a replaced domain. -->
      <xsl:if test="$secure-boot = 'yes'">
        <tpm model="tpm-crb"><backend type="emulator" version="2.0" persistent_state="yes"/></tpm>
      </xsl:if>
      <!-- USB_PASSTHROUGH_PLACEHOLDER -->
    </xsl:copy>
    <!-- Asked for by name: on a host without AppArmor the domain does not start. -->
    <xsl:if test="$svirt = 'apparmor'"><seclabel type="dynamic" model="apparmor" relabel="yes"/></xsl:if>
  </xsl:template>
</xsl:stylesheet>
