<?xml version="1.0"?>
<!-- Every volume is readable by its owner alone; the provider would make it 0644. Seeds hold keys. -->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output omit-xml-declaration="yes" indent="no"/>
  <xsl:template match="@*|node()"><xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy></xsl:template>
  <xsl:template match="permissions/mode"><mode>0600</mode></xsl:template>
  <xsl:template match="target[not(permissions)]">
    <xsl:copy><xsl:apply-templates select="@*|node()"/><permissions><mode>0600</mode></permissions></xsl:copy>
  </xsl:template>
</xsl:stylesheet>
